"""The runs of a comparison in Optuna's storage, shared by any number of workers."""
