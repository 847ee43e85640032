"""HTTP: `predict` (the prediction workers), `control` (the control plane), `server` (starts and stops both)."""
