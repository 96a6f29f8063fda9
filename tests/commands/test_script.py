"""Commands as real processes: signals, and closed or full streams."""

import os
import signal
import subprocess
import sys

import pytest

HEADER = "import os, sys, time, signal\nfrom hyperseg_jax.commands.script import script\n"
SCRIPT_BLOCK = "with script():\n    "


def run_script(body, redirect="", **options):
    """Runs a script around `body`; returns (exit code, standard output, standard error)."""
    args = [sys.executable, "-c", HEADER + body, "x"]
    shell = ["bash", "-c", f'"$@" {redirect}', "bash"] if redirect else []
    done = subprocess.run([*shell, *args], capture_output=True, text=True, timeout=60, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "redirect, code, error",
    [
        ("", 0, ""),
        (">/dev/full", 2, "error: standard output: No space left on device; free space, or redirect it elsewhere\n"),
        (">&-", 2, "error: standard output: Bad file descriptor; free space, or redirect it elsewhere\n"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 2, ""),
        ("<&- >&- 2>&-", 2, ""),
        ("| true; exit ${PIPESTATUS[0]}", 1, ""),
    ],
)
def test_closed_and_full_streams(redirect, code, error):
    pause = "time.sleep(0.3); " if "true" in redirect else ""
    out = "some words\n" if code == 0 else ""
    assert run_script(SCRIPT_BLOCK + f"{pause}print('told', file=sys.stderr); print('some words')", redirect) == (
        code,
        out,
        "told\n" + error if "2>" not in redirect else "",
    )


def test_unwritable_standard_error_is_ignored(tmp_path):
    body = (
        SCRIPT_BLOCK + f"[print('x' * 9999, file=sys.stderr, flush=True) for _ in range(9)]; open({str(tmp_path / 'x')!r}, 'w')"
    )
    assert run_script(body, "2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}") == (0, "", "")
    assert (tmp_path / "x").exists()


def test_descriptors_of_closed_streams_are_not_reused(tmp_path):
    """Otherwise output of libraries would be written into it."""
    body = (
        SCRIPT_BLOCK + f"f = open({str(tmp_path / 'x')!r}, 'w'); os.system('echo out; echo err >&2'); sys.exit(f.fileno() < 3)"
    )
    assert run_script(body, "<&- >&- 2>&-")[0] == 0
    assert (tmp_path / "x").read_bytes() == b""


def test_workers_inherit_the_streams():
    assert run_script(SCRIPT_BLOCK + "os.system('echo out; echo err >&2')", "2>&-") == (0, "out\n", "")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "where",
    [
        "os.kill(os.getpid(), {0}); time.sleep(9)",  # in the work
        "__import__('atexit').register(lambda: (os.kill(os.getpid(), {0}), time.sleep(9)))",  # at the exit of the process
        "threading = __import__('threading'); threading.Thread(target=lambda: (time.sleep(.2), "
        "os.kill(os.getpid(), {0}), time.sleep(9))).start()",  # while Python waits for a thread
        "exec('class A:\\n def __del__(self): os.kill(os.getpid(), {0}); time.sleep(0.01)\\nA()'); time.sleep(9)",  # swallowed
        "exec('try:\\n os.kill(os.getpid(), {0}); time.sleep(9)\\nexcept KeyboardInterrupt: raise OSError(1)')",  # disguised
        "exec('try:\\n os.kill(os.getpid(), {0}); time.sleep(9)\\nexcept KeyboardInterrupt: pass')",  # kept
    ],
)
def test_signals_are_one_line_at_any_time(number, code, where):
    assert run_script(SCRIPT_BLOCK + where.format(int(number))) == (code, "", "error: stopped\n")


def test_partial_files_are_removed_on_exit(tmp_path):
    body = (
        "import pathlib; from hyperseg_jax.atomic import atomic_folder\n"
        + SCRIPT_BLOCK
        + "with atomic_folder(pathlib.Path('out')) as part:"
        "\n        (part / 'x').write_text('half'); os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"
    )
    assert run_script(body, cwd=tmp_path) == (143, "", "error: stopped\n")
    assert not list(tmp_path.iterdir())


def test_ignored_signals_stay_ignored():
    """Like a command run with nohup, or in the background of a script."""
    ignores = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    assert run_script(ignores + SCRIPT_BLOCK + "os.kill(os.getpid(), signal.SIGINT); print('on')") == (0, "on\n", "")


def test_other_exit_codes_are_unchanged():
    assert run_script(SCRIPT_BLOCK + "sys.exit(3)") == (3, "", "")
    assert run_script(SCRIPT_BLOCK + "sys.exit('words')") == (1, "", "words\n")
    code, out, error = run_script(SCRIPT_BLOCK + "print('a'); 1 / 0")
    assert (code, out) == (1, "a\n") and "ZeroDivisionError" in error


@pytest.mark.parametrize("arguments", ["--version", "train --help"])
def test_commands_with_output_to_a_full_disk(arguments):
    code = "from hyperseg_jax.commands.main import main; main()"
    done = subprocess.run(
        ["bash", "-c", f'"$@" {arguments} > /dev/full', "bash", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: standard output: No space left on device")
    assert done.stderr.count("\n") == 1
