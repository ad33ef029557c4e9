"""The report tower of CT-CLIP: BERT, its first token, one vector."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import InputError
from drrgen_training.ctclip.table import TextShape

PAD, UNKNOWN, FIRST, LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


class WordPieces:
    """Cuts lower-cased text into the pieces of a vocabulary.

    Args:
        vocab: ``vocab.txt`` of BERT: a piece a line.
        tokens: The longest text; what is longer is cut.

    Raises:
        InputError: There is no such file, or it is no vocabulary of BERT.
    """

    def __init__(self, vocab: Path, tokens: int = 512) -> None:
        from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
        from tokenizers.models import WordPiece

        try:
            words = vocab.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise InputError(
                f"cannot read the vocabulary {vocab} ({error.strerror}); put the vocab.txt that "
                "belongs to the report encoder there"
            ) from error
        numbers = {word: number for number, word in enumerate(words)}
        missing = [word for word in (PAD, UNKNOWN, FIRST, LAST) if word not in numbers]
        if missing:
            raise InputError(f"{vocab} lacks {', '.join(missing)}; wanted the vocab.txt of BERT")
        self.words, self.pad = len(words), numbers[PAD]
        self._tokenizer = Tokenizer(WordPiece(numbers, unk_token=UNKNOWN))
        self._tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        self._tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._tokenizer.post_processor = processors.BertProcessing(
            (LAST, numbers[LAST]), (FIRST, numbers[FIRST])
        )
        self._tokenizer.enable_truncation(tokens)

    def __call__(self, texts: Sequence[str]) -> tuple[Int64[Tensor, "b t"], Int64[Tensor, "b t"]]:
        """Cut texts; pad to the longest.

        Returns:
            Numbers of the pieces, and 1 where there is one.
        """
        cut = [each.ids for each in self._tokenizer.encode_batch(list(texts))]
        longest = max(map(len, cut))
        pieces = torch.tensor([ids + [self.pad] * (longest - len(ids)) for ids in cut])
        there = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in cut])
        return pieces, there


class TextTower(nn.Module):
    """From pieces of a report to a unit vector. Always in evaluation."""

    def __init__(self, shape: TextShape | None = None) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.shape = s = shape or TextShape()
        config = BertConfig(
            vocab_size=s.words, hidden_size=s.dim, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, intermediate_size=s.hidden,
            max_position_embeddings=s.tokens, type_vocab_size=2, layer_norm_eps=1e-12,
        )  # fmt: skip
        self.text_transformer = BertModel(config, add_pooling_layer=False)
        self.to_text_latent = nn.Linear(s.dim, s.latent, bias=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> "TextTower":  # noqa: ARG002  torch's own
        """Stay in evaluation, whatever is asked."""
        return super().train(mode=False)

    @torch.no_grad()
    def forward(
        self, pieces: Int64[Tensor, "b t"], there: Int64[Tensor, "b t"]
    ) -> Float[Tensor, "b e"]:
        """Embed texts.

        Args:
            pieces: Numbers of the pieces.
            there: 1 where there is one, 0 for padding.
        """
        states = self.text_transformer(input_ids=pieces, attention_mask=there).last_hidden_state
        return functional.normalize(self.to_text_latent(states[:, 0]), dim=-1)
