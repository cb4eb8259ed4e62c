"""The miniature language: word problems whose generator knows the true role of every token."""
