"""Where an encoder's inputs end; how they are read is tested with decoding and prediction."""

import numpy as np

from mt0_tpu import encoded_inputs


def test_lengths_are_up_to_the_last_token():
    rows = [
        [5, 6, 1, 0, 0],
        [5, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 2, 3, 4, 5],
    ]
    lengths = encoded_inputs.lengths_of(np.array(rows, np.int32))
    assert lengths.tolist() == [3, 3, 0, 5]
    assert lengths.dtype == np.int32
