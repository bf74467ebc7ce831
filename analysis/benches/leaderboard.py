"""The leaderboard of some annotation files by the Python package alpaca_eval, with length control, as CSV.

leaderboard.py df_gamed.csv ANNOTATIONS.json ...

The package fetches df_gamed.csv from a hub; here it gets the file that is named.
"""

import sys

import alpaca_eval.metrics.glm_winrate as glm
import pandas as pd

gamed, files = sys.argv[1], sys.argv[2:]
glm.hf_hub_download = lambda **_: gamed

rows = {}
for file in files:
    annotations = pd.read_json(file)
    model = annotations["generator_2"].iloc[0]
    rows[model] = glm.get_length_controlled_winrate(annotations, save_weights_dir=None, is_warn_extreme_changes=False)
    rows[model]["avg_length"] = int(annotations["output_2"].str.len().mean())
board = pd.DataFrame(rows).T.sort_values("length_controlled_winrate", ascending=False)
print(board.to_csv(), end="")
