# Sets the project up on Windows: finds a Python that is new enough and hands over to scripts\setup.py.
#   powershell -ExecutionPolicy Bypass -File scripts\setup.ps1
# With an NVIDIA card it asks for the command that PyTorch's page "Get started" shows for your CUDA; the
# parameter -Cuda "COMMAND" or the environment variable TORCH_INDEX answers beforehand, -Cpu goes on without.
param([string]$Cuda = "", [switch]$Cpu, [switch]$Force)
$ErrorActionPreference = "Stop"

$enough = "import sys; sys.exit(sys.version_info < (3, 11))"
$candidates = @(@("py", "-3.14"), @("py", "-3.13"), @("py", "-3.12"), @("py", "-3.11"), @("python"), @("python3"))
$python = $null
foreach ($candidate in $candidates) {
    if (-not (Get-Command $candidate[0] -ErrorAction SilentlyContinue)) { continue }
    $rest = @($candidate | Select-Object -Skip 1)
    try { & $candidate[0] @rest -c $enough 2>$null } catch { continue }
    if ($LASTEXITCODE -eq 0) { $python = $candidate; break }
}
if ($null -eq $python) {
    [Console]::Error.WriteLine("Python 3.11 or newer was not found: install it from Python's official site, tick 'Add python.exe to PATH', and run this again.")
    [Console]::Error.WriteLine([regex]::Unescape("\u6ca1\u6709\u627e\u5230 Python 3.11 \u6216\u66f4\u65b0\u7248\u672c\uff1a\u8bf7\u4ece Python \u5b98\u7f51\u5b89\u88c5\uff0c\u52fe\u9009 'Add python.exe to PATH'\uff0c\u7136\u540e\u91cd\u65b0\u8fd0\u884c\u3002"))
    exit 4
}

$setup = Join-Path $PSScriptRoot "setup.py"
$options = @()
if ($Cuda) { $options += @("--cuda", $Cuda) }
if ($Cpu) { $options += "--cpu" }
if ($Force) { $options += "--force" }
$rest = @($python | Select-Object -Skip 1)
& $python[0] @rest $setup @options
exit $LASTEXITCODE
