# READS   the run that begins or ends
# WRITES  results/summary/  what it asked for and used; a run that would fail later does not begin

from collections import Counter

from histoloom_operations.contents import check_contents
from histoloom_operations.records import write_planned

SUMMARY = [sys.executable, f"{ROOT}/scripts/tools/run_summary.py", "--ended"]


# Snakemake's own answer to a folder in use names neither the other run nor what to do after a crash.
if workflow.is_main_process and not workflow.output_settings.dryrun:
    from histoloom_operations.run_checks import check_lock

    for problem in check_lock(Path.cwd(), sys.argv):
        raise WorkflowError(problem)


# What would fail later; for a cluster also what the run will ask of it.
onstart:
    read = [
        job
        for job in workflow.dag.needrun_jobs()
        if job.rule.name == "read_section"
    ]
    try:
        check_contents(
            PLAN, {(job.wildcards.cohort, job.wildcards.sample) for job in read}
        )
    except InputError as error:
        raise WorkflowError(str(error)) from None
    extent = "--from-run" if workflow.non_local_exec else "--quick"
    check = [sys.executable, f"{ROOT}/scripts/tools/plan_run.py", extent]
    files = {str(path) for job in workflow.dag.needrun_jobs() for path in job.input}
    # Its options name files as seen from where it was called, which --directory has left.
    if subprocess.run(
        [*check, *sys.argv[1:]],
        cwd=workflow.rundir,
        input="\n".join(files),
        text=True,
    ).returncode:
        raise WorkflowError(
            "nothing was started: see above for what would have failed."
        )
    wanted = Counter(job.rule.name for job in workflow.dag.needrun_jobs())
    write_planned(wanted, Path.cwd())


onsuccess:
    subprocess.run(SUMMARY, stdout=subprocess.DEVNULL)


onerror:
    subprocess.run(SUMMARY, stdout=subprocess.DEVNULL)
