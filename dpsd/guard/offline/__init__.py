"""Access logs: the detectors afterwards, and honest traffic to calibrate on."""
