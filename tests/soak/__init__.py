"""The long run: real servers, a million balances, steady load and faults; does anything leak, drift or differ?"""
