"""Many trials: who they are, what came of them, and who runs them.

Read `runner.py` first. One launcher owns a workdir; it plans groups of trials
that share shapes, gives them to an engine, and is the only one who writes
`results.jsonl`. Workers write into trial folders only:

  trials/HASH/result.json   the trial is done: the truth about it
  trials/HASH/error.json    it failed, and why
  groups/HASH.json          trials that run as one program; a group that was
                            interrupted is run again with the same members
  results.jsonl             a row a trial, derived from the above
  results.parquet           the same as a table
  sweep.json                what was asked, by which command

So whatever is killed, whenever: the next launcher reads the trial folders.
"""
