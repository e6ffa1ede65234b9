"""OpenAI: chat, responses, embeddings, files and batches; and its clones, by their habits.

the family    api (its endpoints), errors, fields (how requests are checked), habits (of clones)
answers       execute (any body to its answer): chat, responses, plain, images, mistral
calls         live (answered now), stored (responses asked for later)
batches       files, batches (both as endpoints), batch_records, batch, batch_check, batch_run,
              batch_lines
"""
