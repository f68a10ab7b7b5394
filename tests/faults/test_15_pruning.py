"""Fault 15, pruning: whatever is saved, found best, damaged, resumed and given up, it never takes the best
checkpoint, the one that was resumed from, or the newest whole one, and it takes all the others."""

import shutil
import tempfile
from pathlib import Path

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lora_scripts.core.control import Control
from lora_scripts.core.events import SaveFailed
from lora_scripts.core.paths import RunFolder
from lora_scripts.training.callbacks.saving import Saving
from lora_scripts.training.checkpoint import ADAPTER, CheckpointStore, Snapshot
from lora_scripts.training.state import TrainingState


class NoExports:
    """The files for clients are not what is pruned here."""

    def has(self, step):
        return True

    def write(self, step):
        return Path(f"step-{step}")

    def keep_best(self, step):
        pass

    def prune(self, keep):
        pass


class Pruning(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = RunFolder(Path(tempfile.mkdtemp()), "x")
        self.folder.identity.touch()
        self.damaged = set()
        self.outdone = set()
        """The best of their day, pruned when a better one came, which was damaged afterwards."""
        self.failed = []

    def teardown(self):
        assert not self.failed
        shutil.rmtree(self.folder.root)

    @initialize(keep=st.integers(1, 3))
    def begin(self, keep):
        self.keep = keep
        self.start()

    @rule()
    def start(self):
        """A new attempt, as after a kill: it goes on from the newest whole checkpoint."""
        self.store = CheckpointStore(self.folder.checkpoints, identity="abc", keep=self.keep)
        step, damaged = self.store.newest()
        assert set(damaged) <= self.damaged, "what nobody damaged is whole"
        for each in damaged:
            self.store.set_aside(each)
        self.damaged -= set(damaged)
        self.state = TrainingState()
        if step is not None:
            self.state.restore(self.store.load(step).state["training"])
            self.outdone |= {self.state.best_step} - {None, *self.store.steps()}
        self.saving = Saving(
            self.store, self.snapshot, NoExports(), self.folder, self.state, Control(), self.hear,
            every_steps=1, total_steps=1000, keep_exports=None, remake=lambda: None,
        )  # fmt: skip
        self.resumed_from, self.last = step, step

    def hear(self, event):
        if isinstance(event, SaveFailed):
            self.failed.append(event)

    def snapshot(self):
        tensors = {"a": torch.full((3,), float(self.state.step))}
        return Snapshot(self.state.step, tensors, tensors, {"training": self.state.to_json()})

    @rule(steps=st.integers(1, 3), best=st.booleans())
    def train_and_save(self, steps, best):
        self.state.step += steps
        if best:
            self.state.best_step = self.state.step
            self.outdone.discard(self.state.step)
        self.saving.save(self.state.step)
        self.last = self.state.step
        self.damaged.discard(self.last)

    @precondition(lambda self: self.store.steps())
    @rule(data=st.data())
    def damage(self, data):
        """A byte turns over on the disk."""
        step = data.draw(st.sampled_from(self.store.steps()))
        path = self.store.path(step) / ADAPTER
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        self.damaged ^= {step}

    def kept_for_a_reason(self):
        found = {self.last, self.resumed_from, self.state.best_step} - {None} - self.outdone
        return {step for step in found if self.store.path(step).exists() or step not in self.given_up()}

    def given_up(self):
        """Steps whose checkpoint was set aside."""
        return {int(path.name.rpartition("-")[2]) for path in self.folder.checkpoints.glob("damaged-*")}

    @invariant()
    def what_counts_is_there(self):
        if not hasattr(self, "store"):
            return
        steps = set(self.store.steps())
        assert self.kept_for_a_reason() <= steps
        whole = steps - self.damaged
        if self.last is not None and self.last in whole:
            assert self.store.newest()[0] == self.last == max(whole)

    @invariant()
    def the_rest_is_pruned(self):
        if hasattr(self, "store") and self.last is not None and self.last != self.resumed_from:
            steps = self.store.steps()
            assert set(steps[: -self.keep]) <= self.kept_for_a_reason()


Pruning.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None, derandomize=True)
TestPruning = Pruning.TestCase
