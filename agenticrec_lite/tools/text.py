"""How text and numbers from the data are shown to the policy: escaped, short, and on one scale."""

import unicodedata
from collections.abc import Sequence

import numpy as np

MAX_TITLE = 80
# Letters and marks that Unicode shows as nothing (Default_Ignorable_Code_Point), beside those of category Cf.
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0"
_REPLACED = dict.fromkeys([*map(ord, _BLANK), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]) | {
    # the full-width and small forms too: a tokenizer that normalises (NFKC) reads them as the plain ones
    ord(sign): look for signs, look in (("<＜﹤", "‹"), (">＞﹥", "›"), ("|｜", "¦")) for sign in signs
}  # fmt: skip
_SHOWN = {"Zs": " ", "Cc": " ", "Zl": " ", "Zp": " ", "Cf": "", "Co": "", "Cs": "", "Cn": ""}


def escape(text: str, limit: int = MAX_TITLE) -> str:
    """Data text that can never become control text; escaping it again changes nothing.

    Angle brackets and bars, of which every protocol tag and chat control token is made, turn into look-alikes;
    control, invisible and bidirectional characters are dropped or become spaces; the length is bounded, and with it
    the prompt: a byte-level tokenizer makes at most four tokens of a character. What the text *says* stays as it is:
    a title may claim anything about its item, and only training teaches the policy not to believe it.

    Args:
        text: Anything from a catalogue, e.g. an item title.
        limit: Longest result in characters; a longer text is cut and ends in "…" (what stands beyond 4 * limit is
            not looked at).
    """
    text = str(text)[: 4 * limit].translate(_REPLACED)
    text = unicodedata.normalize("NFC", "".join(_SHOWN.get(unicodedata.category(c), c) for c in text))
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def standardise(scores: Sequence[float]) -> np.ndarray:
    """Zero mean and unit variance over the candidates; all zeros if the evidence does not tell them apart."""
    scores = np.asarray(scores, dtype=np.float64)
    deviation = scores.std()
    return (scores - scores.mean()) / deviation if deviation > 1e-12 else np.zeros_like(scores)


def shown_scores(scores: Sequence[float]) -> np.ndarray:
    """Evidence as the policy reads it: whole numbers 10..99, 50 + 15 z, so that scores of two tools add up."""
    return np.clip(np.rint(50 + 15 * standardise(scores)), 10, 99).astype(int)

