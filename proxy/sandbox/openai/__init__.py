"""OpenAI: chat, responses, embeddings, files and batches; and its clones, by their habits."""
