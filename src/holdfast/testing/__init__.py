"""For tests of Holdfast and of plug-ins: contract suites for ports, a fake clock, small worlds with known answers."""
