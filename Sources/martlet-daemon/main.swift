import Toolbox

// Everything is in `Toolbox`, where it is tested.
DaemonProgram.run()
