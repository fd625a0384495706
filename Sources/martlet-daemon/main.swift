import Toolbox

// Everything is in `Toolbox`, where it is tested. The first step must be this: there is no other thread yet.
DaemonProgram.supervise()
DaemonProgram.run()
