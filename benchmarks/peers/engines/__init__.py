"""One file a library: how somebody who read its documentation would train with it. See `engines.base`."""
