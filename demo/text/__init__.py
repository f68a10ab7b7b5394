"""The text demo: a small chat model learns the after-sales voice of an invented shop, and facts about it."""
