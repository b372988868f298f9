"""Orbax's manager of checkpoints, where they lie in a bucket.

What is to be kept is decided by the same policy as on a disk, but deleted here: Orbax's own way
deletes a checkpoint file by file without taking its mark first, and asks for permissions that who
may write objects need not have.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from mt0_tpu import run_folder
from mt0_tpu.checkpoint_saving import storage_fault


class _Saved(NamedTuple):
    """What a policy is told of a checkpoint."""

    step: int
    time: Any
    metrics: dict | None


class BucketManager(ocp.CheckpointManager):
    """Saves to a bucket; when a save is whole, deletes what the policy no longer keeps.

    Args:
      folder: of the checkpoints, in the bucket.
      policy: which to keep.
      options: their own policy must keep all.
    """

    def __init__(
        self, folder, policy: policies.PreservationPolicy, options: ocp.CheckpointManagerOptions,
        item_handlers: dict[str, Any],
    ):  # fmt: skip
        self._run, self._policy, self._read_only = folder.parent, policy, options.read_only
        self._given_up: set[int] = set()
        self._gone: set[int] = set()
        self._deleting = threading.Lock()
        if not options.read_only and jax.process_index() == 0:
            # The others wait for this process in Orbax, before they look.
            run_folder.delete_unfinished(self._run)
        super().__init__(folder, options=options, item_handlers=item_handlers)

    def wait_until_finished(self) -> None:
        """Returns when the save under way is whole, and older ones are deleted; raises its error.

        Not only the checkpoints of this process count, but all that it found. What cannot be
        deleted does not make the save fail: it is tried again after the next.
        """
        super().wait_until_finished()
        if self._read_only or jax.process_index() != 0:
            return
        with self._deleting:
            try:
                self._delete_given_up()
            except Exception as error:
                if storage_fault(error) is None:
                    raise

    def _delete_given_up(self) -> None:
        self._given_up.update(self._no_longer_kept())
        for step in sorted(self._given_up - self._gone):
            run_folder.delete_step(self._run, step)
            self._gone.add(step)

    def _no_longer_kept(self) -> list[int]:
        steps = [step for step in self.all_steps() if step not in self._given_up]
        found = [_Saved(step, None, self.metrics(step)) for step in sorted(steps)]
        keep = self._policy.should_preserve(
            found, context=policies.preservation_policy.PreservationContext()
        )
        return [one.step for one, kept in zip(found, keep, strict=True) if not kept]
