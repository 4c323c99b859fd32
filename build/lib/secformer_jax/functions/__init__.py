"""The nonlinear functions of BERT and their MPC-friendly variants, in plain JAX: one file a function."""
