"""Models in several processes of torch.distributed."""

import sparsetrain.distributed.data_parallel as _data_parallel  # no public name, which are imported below

_data_parallel.extend()
