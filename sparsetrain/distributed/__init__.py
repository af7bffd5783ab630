"""Models in several processes of torch.distributed: the same edges on all ranks, and tables spread over them."""

import sparsetrain.distributed.data_parallel as _data_parallel  # no public name, which are imported below

from .row_sharded_linear import RowShardedLinear as RowShardedLinear
from .same_topology import check_topology as check_topology
from .sharded_lookup_table import ShardedLookupTable as ShardedLookupTable
from .sync_topology import sync_topology as sync_topology

_data_parallel.extend()
