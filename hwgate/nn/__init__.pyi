from .cgconv import load_cgconv as load_cgconv
from .cgconv import read_cgconv as read_cgconv
from .convert import Conversion as Conversion
from .convert import LeftLayer as LeftLayer
from .convert import gate as gate
from .digits import digits_network as digits_network
from .gated import (
    ChannelShuffle as ChannelShuffle,
)
from .gated import (
    GatedConv2d as GatedConv2d,
)
from .gated import (
    PaddingShortcut as PaddingShortcut,
)
from .gates import (
    fitting_groups as fitting_groups,
)
from .gates import (
    force_open as force_open,
)
from .gates import (
    gated_layers as gated_layers,
)
from .gates import (
    parameter_groups as parameter_groups,
)
from .gates import (
    set_density as set_density,
)
from .gates import (
    settle_norms as settle_norms,
)
from .losses import (
    distillation_loss as distillation_loss,
)
from .losses import (
    incoherence as incoherence,
)
from .losses import (
    kept_gates as kept_gates,
)
from .losses import (
    threshold_loss as threshold_loss,
)
from .macs import (
    LayerMacs as LayerMacs,
)
from .macs import (
    MacCounter as MacCounter,
)
from .macs import (
    MacSummary as MacSummary,
)
from .macs import (
    count_macs as count_macs,
)
from .macs import (
    mac_summary as mac_summary,
)
from .models import (
    VGG as VGG,
)
from .models import (
    BasicBlock as BasicBlock,
)
from .models import (
    Gating as Gating,
)
from .models import (
    ResNet as ResNet,
)
from .models import (
    lenet as lenet,
)
from .models import (
    load_reference_resnet20 as load_reference_resnet20,
)
from .models import (
    resnet18 as resnet18,
)
from .models import (
    resnet20 as resnet20,
)
from .models import (
    vgg16 as vgg16,
)
