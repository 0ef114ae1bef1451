import os
import time

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index():
    return f"generation {os.environ['HOTSWAP_GENERATION']}\n"


@app.get("/slow")
def slow():
    time.sleep(0.2)
    return index()
