"""The state of a training run on disk: all that it needs to go on as if it had never stopped."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np

# A state is a plain dict: "step"; "params", "means" and "squares", each a dict of arrays (adamw.py); "losses"
# of all steps so far; "held_out", step -> loss on held-out texts.
TABLES = ("params", "means", "squares")


def fresh(params: dict[str, np.ndarray]) -> dict:
    """The state before the first step."""
    zeros = {name: np.zeros_like(array) for name, array in params.items()}
    means, squares = zeros, {name: array.copy() for name, array in zeros.items()}
    return {"step": 0, "params": params, "means": means, "squares": squares, "losses": [], "held_out": {}}


def save(path: Path, state: dict, options: dict) -> None:
    """Write a state and the options it belongs to, under another name until it is whole."""
    arrays = {f"{table} {name}": array for table in TABLES for name, array in state[table].items()}
    rest = {"options": options, "step": state["step"], "held_out": list(state["held_out"].items())}
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        np.savez(file, rest=json.dumps(rest), losses=np.array(state["losses"]), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load(path: Path, options: dict) -> dict | None:
    """The state at `path`; None if there is none. Raises ValueError if it is damaged or of other options."""
    try:
        with np.load(path) as file:
            rest, losses = json.loads(str(file["rest"])), file["losses"].tolist()
            tables = {table: {} for table in TABLES}
            for key in file.files:
                table, _, name = key.partition(" ")
                if name:
                    tables[table][name] = file[key]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and the models beside it to train anew"
        ) from error
    for name, value in options.items():
        if (before := rest["options"].get(name)) != value:
            raise ValueError(
                f"{path} belongs to a training with {name.replace('_', '-')} {before}, not {value}; "
                "give the options it had, or another --out"
            )
    return {"step": rest["step"], **tables, "losses": losses, "held_out": dict(rest["held_out"])}
