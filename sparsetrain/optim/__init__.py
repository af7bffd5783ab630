"""Optimizers for dense parameters, values of edges and the used rows of tables, and gradient clipping."""

from .adagrad import Adagrad as Adagrad
from .adam import Adam as Adam
from .adam import AdamW as AdamW
from .carried import carry as carry
from .clipping import clip_grad_norm_ as clip_grad_norm_
from .clipping import clip_grad_value_ as clip_grad_value_
from .hessian_free import HessianFree as HessianFree
from .hessian_free import Report as Report
from .rmsprop import RMSprop as RMSprop
from .sgd import SGD as SGD
