"""The matcher beside the engines of others, on real bars: `make differential`, in an environment of its own, since their licences and pins are not
ours. Where they differ, the test says which of the two is right and why; what is not installed is left out by name."""
