"""Who calls: by which credentials, for which owner, and how much each may have pending."""
