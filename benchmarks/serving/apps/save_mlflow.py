"""Write the model as an MLflow model, whose answer is the probability: python save_mlflow.py MODEL FOLDER."""

import sys

import mlflow.xgboost
import xgboost

booster = xgboost.Booster()
booster.load_model(sys.argv[1] + "/classifier.ubj")
booster.set_param({"nthread": 1})
mlflow.xgboost.save_model(booster, sys.argv[2])
