"""Collectives of a compiled program, and which of them cross between replicas."""

from __future__ import annotations

import re

import numpy as np

_NAMES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
_LINE = re.compile(rf"= (?P<shape>.+?) (?P<kind>{_NAMES})(-start)?\((?P<rest>.*)$")
_ARRAY = re.compile(r"[a-z]+\d*\[([\d,]*)\]")


_MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>[^\]]*)\]"
    r"(?:, device_ids=\(\[(?P<dims>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?\))? "
    r"\{(?P<along>[^}]*)\}"
)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _mesh_groups(found: re.Match, num_devices: int) -> list[list[int]]:
    """mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}: groups along the axes in braces."""
    assert ":" not in found["along"], found[0]  # part of an axis
    axes = dict(pair.split("=") for pair in found["axes"].replace("'", "").split(","))
    ids = np.arange(num_devices)
    if found["dims"]:
        ids = ids.reshape(_numbers(found["dims"]))
        ids = ids.transpose(_numbers(found["order"])) if found["order"] else ids
    ids = ids.reshape([int(size) for size in axes.values()])
    along = [list(axes).index(name) for name in found["along"].replace("'", "").split(",")]
    ids = np.moveaxis(ids, along, range(-len(along), 0))
    return ids.reshape(-1, int(np.prod(ids.shape[-len(along) :]))).tolist()


def groups(text: str, num_devices: int) -> list[list[int]]:
    """Returns the groups of devices that an instruction's attributes name."""
    if found := _MESH.search(text):
        return _mesh_groups(found, num_devices)
    assert "replica_groups=mesh" not in text, text
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](T\(([\d,]+)\))?", text):
        ids = np.arange(num_devices).reshape(_numbers(found[3]))
        if found[5]:
            ids = ids.transpose(_numbers(found[5]))
        return ids.reshape(int(found[1]), int(found[2])).tolist()
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(.*?)\}\}", text):
        return [
            [int(n) for n in group.split(",") if n]
            for group in re.findall(r"\{([\d,]*)", found[1])
            if group
        ]
    return [list(range(num_devices))]


def crossing(program: str, num_devices: int, num_replicas: int) -> list[tuple[str, list[int]]]:
    """Returns (kind, sizes of its arrays) of each collective with devices of two replicas.

    Devices are numbered replica by replica, replica being the mesh's first axis.
    """
    each = num_devices // num_replicas
    found = []
    for line in program.splitlines():
        match = _LINE.search(line)
        if not match:
            continue
        crosses = any(
            len({device // each for device in group}) > 1
            for group in groups(match["rest"], num_devices)
        )
        if crosses:
            sizes = [
                int(np.prod([int(n) for n in shape.split(",") if n], initial=1))
                for shape in _ARRAY.findall(match["shape"])
            ]
            found.append((match["kind"], sizes))
    return found
