"""What can be read off a place, and is it used there?"""

from mechtest.discovery.probes.probing import probe
from mechtest.discovery.probes.record import ProbedPlace, ProbeRecord

__all__ = ["ProbeRecord", "ProbedPlace", "probe"]
