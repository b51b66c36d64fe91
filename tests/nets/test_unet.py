import math

import pytest
import torch
from torch.testing import assert_close

from src.nets import UNet
from tests.nets.networks import SMALL


@pytest.mark.parametrize(
    ("size", "options", "factor", "fitting"),
    [
        ((28, 28), {"channel_mults": (1, 2, 4, 8)}, 8, "32x32|24x24"),
        ((29,), {"channel_mults": (1, 2)}, 2, "28|30"),
        ((28, 30), {"channel_mults": (1, 2), "patch_size": 2}, 4, "28x32|28x28"),
        ((3,), {"channel_mults": (1, 2, 2, 2)}, 8, "8"),
    ],
)
def test_unet_refuses_sizes(size, options, factor, fitting):
    with pytest.raises(ValueError, match=rf"multiple of {factor} for .*a size such as ({fitting})$") as error:
        UNet(1, size, **SMALL, **options)
    suggestion = [int(side) for side in str(error.value).split()[-1].split("x")]
    UNet(1, suggestion, **SMALL, **options)


def test_added_skips_take_the_place_of_wider_blocks():
    x = torch.randn(2, 8, 4, 4)
    beside, added = (UNet(1, (8, 8), **SMALL, channel_mults=(1, 2), skip_mode=mode) for mode in ("concat", "add"))
    assert_close(beside.merge_skip(x, 2 * x), torch.cat([x, 2 * x], 1))
    assert_close(added.merge_skip(x, 2 * x), 3 / math.sqrt(2) * x)
    assert added.merge_skip(x, torch.randn(2, 16, 4, 4)).shape == (2, 24, 4, 4)
    # Of the four blocks up three find as many channels; the second of the lower level joins 16 and 8.
    inputs = [layer.block.conv_1.in_channels for net in (beside, added) for layer in net.up if hasattr(layer, "block")]
    assert inputs == [32, 24, 16, 16, 16, 24, 8, 8]
