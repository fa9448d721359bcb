"""Which figures a study draws, what it says in words, and the page that shows both."""
