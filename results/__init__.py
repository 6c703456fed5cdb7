"""From the records of a plan's steps to rows, one a run, and from those to tables, statistics, files and a figure.

    collect      collect_runs             the only one that knows plan and store
    statistics   paired_difference        intervals, paired by seed and fold
    summary      summarise                one row an arm; incomplete arms are shown and counted
    render       to_terminal, to_markdown, to_latex
    figures      draw, figure_files
    write        write_results            whole or not at all

Import the module that you need: none is imported here, so that a command that makes no table does not wait for pandas.
"""
