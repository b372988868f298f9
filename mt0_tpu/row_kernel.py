"""The machine code behind models/row_products.py: numba compiles it, XLA calls it.

XLA calls a handler with one pointer, to the call frame of its C interface; the records below are
that interface's structs (xla/ffi/api/c_api.h, which jax.ffi.include_dir() holds) as far as they are
read; a test compares them. A struct whose fields move raises the interface's major version, and XLA
refuses a handler of another one when it is registered.

Letters: R rows, L layers, N blocks, D width, C columns of a block, F = N * C.
"""

from __future__ import annotations

import functools

import jax
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mt0_tpu.models.row_products import COLUMNS, TARGET

_LANES = 16  # floats of a vector: one register of AVX-512; LLVM splits it where they are shorter
_FLOAT_BYTES = 4
_WORD = np.uint64
_METADATA_WANTED = 1  # XLA_FFI_Extension_Metadata: asked once, when the handler is registered
_API = (0, 3)  # the version these records are of, major and minor: jax 0.10's


def _record(**fields) -> np.dtype:
    return np.dtype(list(fields.items()), align=True)


def _array(name: str) -> dict:
    """The fields of XLA_FFI_Args and XLA_FFI_Rets, which lie inside the frame."""
    kinds = {"struct_size": _WORD, "extension": _WORD, "size": np.int64,
             "types": _WORD, "pointers": _WORD}  # fmt: skip
    return {f"{name}_{field}": kind for field, kind in kinds.items()}


FRAME = _record(
    struct_size=_WORD, extension=_WORD, api=_WORD, context=_WORD, stage=np.int32,
    **_array("args"), **_array("rets"),
)  # fmt: skip
EXTENSION = _record(struct_size=_WORD, type=np.int32, next=_WORD, metadata=_WORD)
METADATA = _record(
    struct_size=_WORD, api_struct_size=_WORD, api_extension=_WORD, major=np.int32, minor=np.int32,
    traits=np.uint32,
)  # fmt: skip
BUFFER = _record(
    struct_size=_WORD, extension=_WORD, dtype=np.int32, data=_WORD, rank=np.int64, dims=_WORD
)


@intrinsic
def _pointer(typingctx, address):
    """An address as what numba.carray takes."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), generate


def _block_product(rows: int):
    """Returns a function that multiplies `rows` rows with one block [D, C], sums in registers."""

    @intrinsic
    def multiply(typingctx, x, block, result, depth, features):
        words = (types.uint64, types.uint64, types.uint64, types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            _multiply(builder, rows, *arguments)
            return context.get_dummy_value()

        return types.void(*words), generate

    return multiply


def _multiply(builder: ir.IRBuilder, rows: int, x, block, result, depth, features) -> None:
    """result[r, c] = sum over d of x[r, d] * block[d, c]; rows of `result` lie F floats apart."""
    float_, word = ir.FloatType(), ir.IntType(64)
    vector = ir.VectorType(float_, _LANES)
    parts = range(COLUMNS // _LANES)
    x, block, result = (builder.inttoptr(at, float_.as_pointer()) for at in (x, block, result))
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32"
    )
    undefined = ir.Constant(vector, ir.Undefined)
    first_lane = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)

    def vector_at(pointer, index):
        return builder.bitcast(builder.gep(pointer, [index]), vector.as_pointer())

    def everywhere(value):
        value = builder.insert_element(undefined, value, ir.IntType(32)(0))
        return builder.shuffle_vector(value, undefined, first_lane)

    row_at = [builder.gep(x, [builder.mul(depth, word(row))]) for row in range(rows)]
    before, loop = builder.block, builder.append_basic_block("loop")
    after = builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    d = builder.phi(word)
    d.add_incoming(word(0), before)
    sums = [[builder.phi(vector) for _ in parts] for _ in range(rows)]
    start = builder.mul(d, word(COLUMNS))
    kernel = [
        builder.load(vector_at(block, builder.add(start, word(part * _LANES))), align=_FLOAT_BYTES)
        for part in parts
    ]
    new = []
    for row in range(rows):
        value = everywhere(builder.load(builder.gep(row_at[row], [d])))
        new.append([builder.call(fma, [value, kernel[p], sums[row][p]]) for p in parts])
    following = builder.add(d, word(1))
    d.add_incoming(following, loop)
    for row in range(rows):
        for part in parts:
            sums[row][part].add_incoming(ir.Constant(vector, [0.0] * _LANES), before)
            sums[row][part].add_incoming(new[row][part], loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, after)
    builder.position_at_end(after)
    for row in range(rows):
        for part in parts:
            index = builder.add(builder.mul(features, word(row)), word(part * _LANES))
            builder.store(new[row][part], vector_at(result, index), align=_FLOAT_BYTES)


_one, _two, _three, _four = (_block_product(rows) for rows in (1, 2, 3, 4))


def _handler(address):
    frame = numba.carray(_pointer(address), 1, FRAME)[0]
    if frame.extension != 0:
        extension = numba.carray(_pointer(frame.extension), 1, EXTENSION)[0]
        if extension.type == _METADATA_WANTED:
            metadata = numba.carray(_pointer(extension.metadata), 1, METADATA)
            metadata[0].major, metadata[0].minor = _API
            metadata[0].traits = 0
            return _WORD(0)
    args = numba.carray(_pointer(frame.args_pointers), 3, _WORD)
    rets = numba.carray(_pointer(frame.rets_pointers), 1, _WORD)
    x = numba.carray(_pointer(args[0]), 1, BUFFER)[0]
    blocks = numba.carray(_pointer(args[1]), 1, BUFFER)[0]
    number = numba.carray(_pointer(args[2]), 1, BUFFER)[0]
    result = numba.carray(_pointer(rets[0]), 1, BUFFER)[0]
    rows = numba.carray(_pointer(x.dims), 2, np.int64)[0]
    _, count, depth, _ = numba.carray(_pointer(blocks.dims), 4, np.int64)
    layer = numba.carray(_pointer(number.data), 1, np.int32)[0]
    features = count * COLUMNS
    block_bytes = depth * COLUMNS * _FLOAT_BYTES
    for n in range(count):
        block = blocks.data + _WORD((layer * count + n) * block_bytes)
        # Four rows at a time: the block stays in the second cache.
        for row in range(0, rows, 4):
            x_at = x.data + _WORD(row * depth * _FLOAT_BYTES)
            to = result.data + _WORD((row * features + n * COLUMNS) * _FLOAT_BYTES)
            left = rows - row
            if left >= 4:
                _four(x_at, block, to, depth, features)
            elif left == 3:
                _three(x_at, block, to, depth, features)
            elif left == 2:
                _two(x_at, block, to, depth, features)
            else:
                _one(x_at, block, to, depth, features)
    return _WORD(0)


@functools.cache
def register():
    """Compiles the product for this CPU (about a second) and makes it known to XLA; once.

    Returns what must live as long as the process.
    """
    # Without numba's cache, which would not see that COLUMNS has changed.
    handler = numba.cfunc(types.uint64(types.uint64))(_handler)
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(handler.ctypes), platform="cpu")
    return handler


@numba.njit(cache=True, nogil=True)
def lay_out(kernel_LDF, blocks_LNDC):
    """Fills `blocks` with the columns of kernels."""
    layers, count, depth, columns = blocks_LNDC.shape
    together = 64  # blocks of whose columns 8 KiB lie end to end
    for layer in range(layers):
        for begin in range(0, count, together):
            for d in range(depth):
                for n in range(begin, min(begin + together, count)):
                    for c in range(columns):
                        blocks_LNDC[layer, n, d, c] = kernel_LDF[layer, d, n * columns + c]


@numba.njit(cache=True, nogil=True)
def lay_out_table(table_FD, blocks_1NDC):
    """Fills `blocks` with the rows of a token table, which are the columns of its head."""
    _, count, depth, columns = blocks_1NDC.shape
    for n in range(count):
        for d in range(depth):
            for c in range(columns):
                blocks_1NDC[0, n, d, c] = table_FD[n * columns + c, d]
