"""Classical recommenders: the baselines, and the evidence behind the collaborative tools."""

from agenticrec_lite.recommenders.base import Recommender
from agenticrec_lite.recommenders.caser import Caser
from agenticrec_lite.recommenders.gru4rec import GRU4Rec
from agenticrec_lite.recommenders.itemknn import ItemKNN
from agenticrec_lite.recommenders.popularity import Popularity
from agenticrec_lite.recommenders.sasrec import SASRec

RECOMMENDERS: dict[str, type[Recommender]] = {  # the baselines, by their names in tables
    "popularity": Popularity, "itemknn": ItemKNN, "caser": Caser, "gru4rec": GRU4Rec, "sasrec": SASRec,
}  # fmt: skip

__all__ = ["RECOMMENDERS", "Caser", "GRU4Rec", "ItemKNN", "Popularity", "Recommender", "SASRec"]
