"""The labels' words as answers of a language model: their tokens, and the places of those that it reads itself.

Letters of tensor shapes: see `base`; E tokens that are read, V tokens of the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# The word of a token of the prompt.
_PROMPT = -1


@dataclass(frozen=True)
class Answers:
    """The tokens of each label's word.

    A word of one token is scored by the prompt's last state. A longer word is scored by its whole log-likelihood, which
    is the sum over its tokens, each given the prompt and the word's tokens before it. All its tokens but the last one
    are therefore read: those of all words follow the prompt in one row, and each sees the prompt and its own word
    alone, as if that word followed the prompt directly.
    """

    # By label, in order. Empty if no words are scored.
    ids: tuple[tuple[int, ...], ...] = ()

    def read_ids(self) -> list[int]:
        """Return the tokens to read behind every prompt, E of them."""
        return [token for ids in self.ids for token in ids[:-1]]

    def scored_ids(self) -> list[int]:
        """Return the token behind each of `read_ids` in its word."""
        return [token for ids in self.ids for token in ids[1:]]

    def words(self) -> list[int]:
        """Return the number of the word that each of `read_ids` belongs to."""
        return [word for word, ids in enumerate(self.ids) for _ in ids[1:]]

    def places(self, length: int, end_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions of a batch of rows that end with `read_ids`, and which tokens each token sees.

        Args:
            length: T, the length of a row with its padding.
            end_B: the index of each row's last token that is no padding.

        Returns:
            positions_BT, counted from the start of a row, and mask_BTT, which is True where a token may look.
        """
        index_T = torch.arange(length, device=end_B.device)
        words_E = torch.tensor(self.words(), device=end_B.device)
        depths_E = torch.tensor([depth for ids in self.ids for depth in range(len(ids) - 1)], device=end_B.device)
        first_B1 = end_B[:, None] - len(words_E) + 1
        place_BT = index_T - first_B1
        is_read_BT = (place_BT >= 0) & (place_BT < len(words_E))
        place_BT = place_BT.clamp(0, len(words_E) - 1)
        positions_BT = torch.where(is_read_BT, first_B1 + depths_E[place_BT], index_T)
        words_BT = torch.where(is_read_BT, words_E[place_BT], _PROMPT)
        is_prompt_B1T, is_own_BTT = words_BT[:, None] == _PROMPT, words_BT[:, :, None] == words_BT[:, None]
        return positions_BT, (is_prompt_B1T | is_own_BTT) & (index_T <= index_T[:, None])


class WordReadout(nn.Module):
    """The verbalizer of words of one token: it scores each label by the language model's own logit of its word.

    It computes one row a label of the vocabulary head instead of the whole vocabulary.
    """

    rows_KD: Tensor

    def __init__(self, rows_KD: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows_KD", rows_KD.detach().float().clone(), persistent=False)

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Compute logits_BK. Up to a constant for each row, they are the log-likelihoods of the labels' words."""
        return pooled_BD @ self.rows_KD.T


class SequenceReadout(nn.Module):
    """The verbalizer of words of several tokens: it scores each label by the log-likelihood of its whole word.

    Tokens behind the first one need the logits of the whole vocabulary, because each word has other states.
    """

    rows_VD: Tensor

    def __init__(self, rows_VD: Tensor, answers: Answers) -> None:
        super().__init__()
        self.register_buffer("rows_VD", rows_VD.detach().clone(), persistent=False)
        self.answers = answers

    def forward(self, pooled_BD: Tensor) -> Tensor:
        """Compute logits_BK: the log-likelihoods of the words, up to a constant for each row.

        pooled_BD holds the prompt's last state and the E states of the tokens that are read, one after the other.
        """
        rows_VD = self.rows_VD.float()
        states_BED = pooled_BD.view(len(pooled_BD), -1, rows_VD.shape[1])
        # The first tokens of all words follow the same state, so its normalisation is the constant.
        logits_BK = states_BED[:, 0] @ rows_VD[[ids[0] for ids in self.answers.ids]].T
        logs_BEV = (states_BED[:, 1:] @ rows_VD.T).log_softmax(dim=-1)
        scored_E = torch.tensor(self.answers.scored_ids(), device=pooled_BD.device)
        scores_BE = logs_BEV.gather(2, scored_E.expand(len(logs_BEV), -1)[..., None])[..., 0]
        scores_BK: Tensor = logits_BK.index_add(
            1, torch.tensor(self.answers.words(), device=pooled_BD.device), scores_BE
        )
        return scores_BK
