# The benchmark's table of contents. Settings: config/. Rules: benchmark/rules/. What a job does: benchmark/<verb>.py.
#
#   snakemake                                        every table and figure of config/quick.yaml
#   snakemake --configfile config/smoke.yaml         of another experiment
#   snakemake --configfile config/h100.yaml          times at the paper's shapes, on a GPU
#   snakemake --configfile config/testbed.yaml       the paper's quality experiments on a trained testbed, on a GPU
#   snakemake --config methods=[dense,radial]        the same experiment with other settings
#   snakemake table1 figure2                         some of them (targets stand before --config and --configfile)

from benchmark.ending import last_lines

if not workflow.overwrite_configfiles:

    configfile: "config/quick.yaml"


# Times at the paper's shapes, or clips and what is measured on them.
if "speed" in config:

    include: "benchmark/rules/speed_common.smk"
    include: "benchmark/rules/speed.smk"
    include: "benchmark/rules/paper_common.smk"
    include: "benchmark/rules/paper.smk"

    localrules:
        tables,
        figures,

    TARGETS = [rules.speed.input, rules.tables.input, rules.figures.input]
    PLACES = {"records": RECORDS, "tables": TABLES, "figures": FIGURES}
    PUBLISH = f"python -m benchmark latency --publish {RECORDS}"
    CELLS = {}  # a cell of times that fails is told in the tables; those of clips are other cells

else:

    include: "benchmark/rules/common.smk"
    include: "benchmark/rules/inputs.smk"
    include: "benchmark/rules/clips.smk"
    include: "benchmark/rules/tuning.smk"
    include: "benchmark/rules/records.smk"
    include: "benchmark/rules/analysis.smk"
    include: "benchmark/rules/paper_common.smk"
    include: "benchmark/rules/paper.smk"
    include: "benchmark/rules/report.smk"
    include: "benchmark/rules/training.smk"

    localrules:
        tables,
        figures,

    # Records are asked for by themselves: one that is gone, for its failure was the machine's or it was damaged, is made
    # again although the tables that were made of it are there.
    TARGETS = [records("generate"), records("measure"), rules.collect.output]
    TARGETS += [rules.tables.input, rules.figures.input]
    PLACES = {"tables": TABLES, "figures": FIGURES}
    PUBLISH = ""
    if "variants" in CONFIG:  # its thousands of clips would fit into no page; the page of quick shows its tables
        PUBLISH = f"python -m benchmark publish-records --experiment {CONFIG['experiment']}"
    else:
        TARGETS.append(rules.report_page.output.page)
        PLACES["report"] = rules.report_page.output.page


localrules:
    all,


rule all:
    default_target: True
    input:
        TARGETS,


onsuccess:
    print(last_lines(PLACES, Path(RESULTS), CELLS.values(), PUBLISH))
