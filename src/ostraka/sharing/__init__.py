"""Secret sharing: how a vector is split among parties and put together again, as pure functions."""
