"""The brokers. A folder `brokers` beside this one on Python's path adds its packages to these."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
