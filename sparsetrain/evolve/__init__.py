"""Edges that change while a model trains: rules that choose them, schedules that say when."""

from .attached import attach as attach
from .cannistraci_hebb import CHT as CHT
from .change import Change as Change
from .change import LayerChange as LayerChange
from .evolver import Evolver as Evolver
from .global_magnitude import GlobalMagnitude as GlobalMagnitude
from .gradual_magnitude import GMP as GMP
from .layers import Layer as Layer
from .rigl import RigL as RigL
from .rule import Rule as Rule
from .schedules import Constant as Constant
from .schedules import Cosine as Cosine
from .schedules import Cubic as Cubic
from .schedules import Linear as Linear
from .schedules import Schedule as Schedule
from .sparse_evolutionary import SET as SET
from .sparse_momentum import SNFS as SNFS
from .static import Static as Static
from .top_kast import TopKAST as TopKAST
