"""Where results go: one file, one kind of output."""

from pipeline.sinks.base import Sink, stop_requested
from pipeline.sinks.outputs import open_sinks

__all__ = ["Sink", "open_sinks", "stop_requested"]
