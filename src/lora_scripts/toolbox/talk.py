"""Answers of a language model: equal prompts, seeds and settings give equal ones, whatever is asked beside.

The model may be one that is being trained: what generation changes is put back, and no random state but its
own is drawn from.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import TextModel

from .turns import Turns, is_chat, prompt_ids, stop_ids, turns_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BATCH = 16
"""Prompts that are answered at once."""
WAIT = 0.1
"""Seconds between looks at the keyboard while no text comes: on Windows a longer wait would hold Ctrl-C."""


def generate_texts(
    model: TextModel,
    prompts: Sequence[str | Turns],
    *,
    system: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 42,
    template: str | None = None,
    thinking: bool = True,
) -> list[str]:
    """One answer for each prompt: a question, or the turns of a conversation that ends with one.

    A base with a chat template is asked through it (``template`` in its stead), another one goes on with the
    text. ``temperature`` 0 takes the likeliest token each time; above, tokens are drawn with ``seed``, which
    is the same for every prompt, so that an answer does not depend on its neighbours. An answer ends where
    the model ends its turn, after ``max_new_tokens``, or at the end of its context.

    ``thinking``: False tells a template that knows it that the model is not to think.

    Raises ProblemsError: LS4354 a prompt that leaves no room for an answer, LS1033 a broken template,
    LS4357 one that refuses the turns.
    """
    chat = is_chat(model.tokenizer, template)
    rows = [prompt_ids(model.tokenizer, turns_of(prompt, system), template, thinking) for prompt in prompts]
    rooms = [_room(model, row, max_new_tokens) for row in rows]
    stops = stop_ids(model, template)
    answers = [""] * len(rows)
    with _writer(model, stops):
        for batch in _batches(rooms, max_new_tokens):
            given, room = [rows[i] for i in batch], rooms[batch[0]]
            draws = _draws(model, temperature, [seed] * len(batch))
            for i, ids in zip(batch, _generate(model, given, room, draws), strict=True):
                text = whole_text(model.tokenizer, _before(ids, stops))
                answers[i] = text.strip() if chat else text
    return answers


def stream_text(
    model: TextModel,
    prompt: str | Turns,
    *,
    system: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 42,
    template: str | None = None,
    thinking: bool = True,
) -> Answer:
    """As ``generate_texts`` for one prompt, in whole characters as they come. Raises as it, at once."""
    row = prompt_ids(model.tokenizer, turns_of(prompt, system), template, thinking)
    room = _room(model, row, max_new_tokens)
    return Answer(model, row, room, _draws(model, temperature, [seed]), stop_ids(model, template))


class Answer:
    """An answer while it is written: an iterator of pieces of text.

    The model writes in a thread of its own, so that the one who reads can be interrupted while waiting; call
    ``stop`` when no more is wanted.
    """

    def __init__(self, model: TextModel, row: list[int], room: int, draws: Any, stops: list[int]) -> None:
        self.halt = threading.Event()
        self.executor = ThreadPoolExecutor(1)
        tokens = _Tokens(set(stops), skip=len(row))
        self.pieces = text_pieces(tokens, lambda ids: whole_text(model.tokenizer, ids))

        def write() -> None:
            with _writer(model, stops):
                _generate(model, [row], room, draws, streamer=tokens, stopping_criteria=[_Halted(self.halt)])

        self.written = self.executor.submit(write)
        self.written.add_done_callback(lambda _: tokens.end())

    def __iter__(self) -> Iterator[str]:
        yield from self.pieces
        self.executor.shutdown()
        self.written.result()

    def stop(self) -> None:
        """Lets the model finish the token that it is at, and waits for it."""
        self.halt.set()
        self.executor.shutdown()


def text_pieces(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """The text of ``tokens`` as soon as its characters are whole; the pieces together are the whole text.

    ``decode``: as ``whole_text``, which leaves a character out until its last token is there.
    """
    ids: list[int] = []
    sent = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if len(text) > len(sent) and text.startswith(sent):
            yield text[len(sent) :]
            sent = text


def whole_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ``ids`` without special tokens, and without a last character of which bytes are missing:
    one character may be several tokens, and decodes to U+FFFD as long as it is not whole."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.rstrip("\ufffd")


def _before(ids: Sequence[int], stops: Sequence[int]) -> Sequence[int]:
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def _room(model: TextModel, row: Sequence[int], wanted: int) -> int:
    """Tokens that an answer to ``row`` may have; ProblemsError LS4354 for none."""
    context = model.description.context
    if len(row) >= context:
        raise ProblemsError(Problem("LS4354", {"tokens": len(row), "context": context}))
    return min(wanted, context - len(row))


def _batches(rooms: Sequence[int], wanted: int) -> list[list[int]]:
    """Numbers of the prompts that are answered together; one near the end of the context stands alone, since
    it may not go on as long as the others."""
    free = [i for i, room in enumerate(rooms) if room == wanted]
    alone = [[i] for i, room in enumerate(rooms) if room != wanted]
    return [free[i : i + BATCH] for i in range(0, len(free), BATCH)] + alone


@contextmanager
def _writer(model: TextModel, stops: Sequence[int]) -> Iterator[None]:
    """Within it the model writes plainly: no dropout, and nothing of the base's own wishes (penalties, drawn
    tokens) but where it stops."""
    from transformers import GenerationConfig

    module: Any = model.predictor
    modes = [(part, part.training) for part in module.modules()]
    own = module.generation_config
    module.generation_config = GenerationConfig(
        do_sample=False,
        use_cache=True,
        eos_token_id=list(stops) or None,
        pad_token_id=stops[0] if stops else 0,
        bos_token_id=getattr(own, "bos_token_id", None),
    )
    try:
        module.eval()
        yield
    finally:
        module.generation_config = own
        for part, training in modes:
            part.training = training


def _generate(
    model: TextModel, rows: Sequence[Sequence[int]], room: int, draws: Any, **more: Any
) -> list[list[int]]:
    """What follows each row, with everything behind the end of a turn. Rows are padded on the left, where the
    mask hides it and positions do not count it."""
    import torch

    width = max(map(len, rows))
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    module: Any = model.predictor
    with torch.no_grad():
        found: Tensor = module.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=room,
            logits_processor=[draws] if draws else [],
            **more,
        )
    written: list[list[int]] = found[:, width:].tolist()
    return written


def _draws(model: TextModel, temperature: float, seeds: Sequence[int]) -> Any:
    if temperature <= 0:
        return None
    own: Any = getattr(model.predictor, "generation_config", None)
    keep, share = getattr(own, "top_k", None), getattr(own, "top_p", None)
    return _Draws(temperature, seeds, keep or 0, share or 1.0)


class _Draws:
    """Draws each row's next token with a generator of its own and leaves nothing else to choose from: the
    random state of the process stays as it is, and the device does not matter. ``keep`` and ``share`` are the
    base's own top-k and top-p, 0 and 1 for all tokens."""

    def __init__(self, temperature: float, seeds: Sequence[int], keep: int, share: float) -> None:
        import torch

        self.temperature = temperature
        self.keep = keep
        self.share = share
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        chances = (scores.detach().to("cpu", torch.float64) / self.temperature).softmax(dim=-1)
        only = torch.full_like(scores, float("-inf"))
        for number, (row, generator) in enumerate(zip(chances, self.generators, strict=True)):
            only[number, self._draw(row, generator)] = 0.0
        return only

    def _draw(self, chances: Tensor, generator: torch.Generator) -> int:
        import torch

        ordered, tokens = chances.sort(descending=True, stable=True)
        if self.keep:
            ordered, tokens = ordered[: self.keep], tokens[: self.keep]
        total = ordered.cumsum(0)
        kept = int((total - ordered < self.share).sum())
        point = torch.rand((), generator=generator, dtype=torch.float64) * total[kept - 1]
        return int(tokens[min(int(torch.searchsorted(total[:kept], point, right=True)), kept - 1)])


class _Halted:
    """Stops the model's writing once ``halt`` is set."""

    def __init__(self, halt: threading.Event) -> None:
        self.halt = halt

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        import torch

        return torch.full((len(input_ids),), self.halt.is_set(), device=input_ids.device)


class _Tokens:
    """What Transformers calls a streamer: the model's thread puts tokens in, the caller's takes them out."""

    def __init__(self, stops: set[int], skip: int) -> None:
        self.stops = stops
        self.skip = skip
        self.waiting: queue.Queue[int | None] = queue.Queue()

    def put(self, value: Tensor) -> None:
        for token in value.flatten().tolist():
            if self.skip:  # the prompt comes first
                self.skip -= 1
            elif token not in self.stops:
                self.waiting.put(token)

    def end(self) -> None:
        self.waiting.put(None)

    def __iter__(self) -> Iterator[int]:
        while True:
            try:
                token = self.waiting.get(timeout=WAIT)
            except queue.Empty:
                continue
            if token is None:
                return
            yield token
