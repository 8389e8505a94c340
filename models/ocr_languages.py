"""The languages that the PP-OCRv6 networks read, all with one alphabet of 18,708 characters."""

from __future__ import annotations

_NAMES = {
    "ch": "chinese",
    "chinese_cht": "traditional_chinese",
    "en": "english",
    "japan": "japanese",
    "af": "afrikaans",
    "az": "azerbaijani",
    "bs": "bosnian",
    "ca": "catalan",
    "cs": "czech",
    "cy": "welsh",
    "da": "danish",
    "de": "german",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "gl": "galician",
    "hr": "croatian",
    "hu": "hungarian",
    "id": "indonesian",
    "is": "icelandic",
    "it": "italian",
    "ku": "kurdish",
    "la": "latin",
    "lb": "luxembourgish",
    "lt": "lithuanian",
    "lv": "latvian",
    "mi": "maori",
    "ms": "malay",
    "mt": "maltese",
    "nl": "dutch",
    "no": "norwegian",
    "oc": "occitan",
    "pl": "polish",
    "pt": "portuguese",
    "qu": "quechua",
    "rm": "romansh",
    "ro": "romanian",
    "rs_latin": "serbian_latin",
    "sk": "slovak",
    "sl": "slovenian",
    "sq": "albanian",
    "sv": "swedish",
    "sw": "swahili",
    "tl": "tagalog",
    "tr": "turkish",
    "uz": "uzbek",
    "vi": "vietnamese",
}
_ALIASES = {"zh": "ch", "zh-cn": "ch", "zh-tw": "chinese_cht", "zh_cn": "ch", "zh_tw": "chinese_cht"} | {
    "ja": "japan",
    "jp": "japan",
    "simplified_chinese": "ch",
}

KNOWN_LANGUAGES: tuple[str, ...] = tuple(_NAMES.values())
_CODES = {name: code for code, name in _NAMES.items()} | {code: code for code in _NAMES} | _ALIASES


def language_code(name: str) -> str | None:
    """PaddleOCR's code of a language that is named in English or by a code; None where it is not known."""
    return _CODES.get(name.strip().lower().replace(" ", "_"))
