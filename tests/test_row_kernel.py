"""The header that jax ships against what row_kernel.py's records were written for; layouts."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from mt0_tpu import row_kernel
from mt0_tpu.models.row_products import COLUMNS

# As far as they are read; * is a pointer. A record that no longer fits reads the wrong words.
ARRAY = ["struct_size", "*extension_start", "size", "*types"]
STRUCTS = {
    "XLA_FFI_CallFrame": [
        "struct_size", "*extension_start", "*api", "*ctx", "stage", "args", "rets",
    ],
    "XLA_FFI_Args": [*ARRAY, "*args"],
    "XLA_FFI_Rets": [*ARRAY, "*rets"],
    "XLA_FFI_Buffer": ["struct_size", "*extension_start", "dtype", "*data", "rank", "*dims"],
    "XLA_FFI_Metadata_Extension": ["extension_base", "*metadata"],
    "XLA_FFI_Metadata": ["struct_size", "api_version", "traits"],
    "XLA_FFI_Api_Version": ["struct_size", "*extension_start", "major_version", "minor_version"],
}  # fmt: skip


@pytest.fixture(scope="module")
def header():
    path = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    return re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("struct", STRUCTS)
def test_the_header_has_the_structs_that_the_records_were_written_for(header, struct):
    body = re.search(rf"struct {struct} \{{(.*?)\n\}}", header, re.DOTALL)[1]
    fields = [" ".join(line.split()) for line in body.split(";")]
    found = [re.sub(r".*?(\**) ?(\w+)$", r"\1\2", field.replace("* ", "*")) for field in fields]
    found = [re.sub(r"\*+", "*", field) for field in found]
    assert found[: len(STRUCTS[struct])] == STRUCTS[struct]


def test_the_header_has_the_version_of_the_records(header):
    assert "#define XLA_FFI_API_MAJOR 0" in header
    assert "XLA_FFI_Extension_Metadata = 1" in header


def test_lay_out_puts_columns_together():
    kernel_LDF = np.arange(2 * 3 * 3 * COLUMNS, dtype=np.float32).reshape(2, 3, 3 * COLUMNS)
    blocks_LNDC = np.empty((2, 3, 3, COLUMNS), np.float32)
    row_kernel.lay_out(kernel_LDF, blocks_LNDC)
    wanted_LNDC = kernel_LDF.reshape(2, 3, 3, COLUMNS).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(blocks_LNDC, wanted_LNDC)
    blocks_1NDC = np.empty((1, 3, 3, COLUMNS), np.float32)
    row_kernel.lay_out_table(np.ascontiguousarray(kernel_LDF[1].T), blocks_1NDC)
    np.testing.assert_array_equal(blocks_1NDC[0], wanted_LNDC[1])


def test_registering_again_gives_the_same_handler():
    assert row_kernel.register() is row_kernel.register()
