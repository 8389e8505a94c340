"""What is read from the text that a chat model answers. Pure."""

from __future__ import annotations


def unwrapped(answer: str) -> str:
    """An answer without what models put around JSON: thoughts before it, a fence of Markdown."""
    text = answer.strip()
    if text.startswith("<think>"):
        text = text.partition("</think>")[2].lstrip()
    if text.startswith("```"):
        text = text.removeprefix("```").removeprefix("json")
    return text.removesuffix("```")
