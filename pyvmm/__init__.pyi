from pyvmm.scripting.errors import Failure as Failure
from pyvmm.scripting.errors import UserError as UserError
from pyvmm.scripting.guest import Completed as Completed
from pyvmm.scripting.guest import Guest as Guest
from pyvmm.scripting.guest import attach as attach
from pyvmm.scripting.guest import normal_vm as normal_vm
from pyvmm.scripting.guest import realm as realm
from pyvmm.scripting.verification import Report as Report
from pyvmm.scripting.verification import verify as verify

__version__: str
