"""Models that judge a breast by all its views: which views a breast has, and how they are combined. No torch."""
