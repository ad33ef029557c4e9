"""How a report becomes the text that an encoder reads: named rules, part of an embedding's id."""

import hashlib
import re
from collections.abc import Sequence
from enum import StrEnum

TEMPLATE_VERSION = 1  # rises whenever a text would change
_NOT_GIVEN = re.compile(r"^\s*(not given\.?|nan)\s*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Template(StrEnum):
    """Which sections, and how they are joined."""

    SECTIONS = "sections"  # findings, a blank, impression
    FINDINGS = "findings"
    IMPRESSION = "impression"
    CTCLIP = "ctclip"  # as CT-CLIP infers: no blank between the two, no quotes, no brackets


def make_text(findings: str | None, impression: str | None, template: Template) -> str | None:
    """Make the text; None where there is nothing to say.

    Example:
        >>> make_text("No effusion.", "Not given.", Template.SECTIONS)
        'No effusion.'
    """
    first, second = (
        "" if text is None or _NOT_GIVEN.match(text) else text for text in (findings, impression)
    )
    match template:
        case Template.FINDINGS:
            text = first
        case Template.IMPRESSION:
            text = second
        case Template.SECTIONS:
            text = f"{first.strip()} {second.strip()}"
        case Template.CTCLIP:
            text = re.sub(r"[\"'()]", "", first + second)
    return text.strip() or None


def drop_sentences(text: str, kept: Sequence[bool]) -> str:
    """Leave sentences out, and if none were left all of them in.

    Args:
        text: A report.
        kept: Whether a sentence stays, in turn; taken from the start again when it is used up.

    Example:
        >>> drop_sentences("No effusion. Large heart. Emphysema.", [True, False])
        'No effusion. Emphysema.'
    """
    sentences = _SENTENCE_END.split(text)
    left = [each for i, each in enumerate(sentences) if kept[i % len(kept)]]
    return " ".join(left) or text


def name_text(text: str) -> str:
    """Name a text by its content, so that equal reports are one."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]
