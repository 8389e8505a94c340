"""A real browser that shows a document's HTML and says what became of its pictures and films."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
)

IMAGE_LOADS = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
VIDEO_PLAYS = """async video => {
  const moved = new Promise((resolve, reject) => {
    video.onerror = () => reject(video.error.message);
    video.ontimeupdate = () => video.currentTime > 0 && resolve();
  });
  await video.play();
  await moved;
  return {readyState: video.readyState, currentTime: video.currentTime, width: video.videoWidth};
}"""


@contextmanager
def page_in(browser: str) -> Iterator[Page]:
    """An empty page in the browser at this path."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=ARGUMENTS)
        try:
            yield running.new_page()
        finally:
            running.close()
