"""The report on a run, from its JSON alone."""

from .record import RecordsError as RecordsError
from .record import read as read
from .rendering import Report as Report
from .rendering import build as build
from .rendering import draw as draw
from .rendering import html as html
from .rendering import markdown as markdown
from .rendering import plain as plain
from .slowdowns import regressions as regressions
from .slowdowns import slowdowns as slowdowns
from .slowdowns import verdict as verdict
