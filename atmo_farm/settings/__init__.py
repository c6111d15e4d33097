"""The farm's own settings on this machine: flags, environment, `conf/atmo-farm.yaml` and defaults, in that order."""

from atmo_farm.settings.load import Loaded, Value, load
from atmo_farm.settings.model import DataSourceSettings, HandlerDefaults, Settings, Tracer

__all__ = ["DataSourceSettings", "HandlerDefaults", "Loaded", "Settings", "Tracer", "Value", "load"]
