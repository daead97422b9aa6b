from .figures import Line as Line
from .figures import Panel as Panel
from .report import Pictures as Pictures
from .report import write_report as write_report
from .tables import console as console
from .tables import new_table as new_table
